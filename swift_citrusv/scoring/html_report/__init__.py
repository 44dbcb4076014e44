"""The HTML page of an evaluation: scores, charts and cases with pictures. It scores nothing itself."""
