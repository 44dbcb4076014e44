"""`citrusv eval qa`: multiple-choice, yes-or-no and open questions, and the files of the benchmarks."""
