"""The task that scores answers to questions: multiple choice, yes or no, open; and the benchmarks' files."""
