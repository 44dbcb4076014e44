"""The task that scores masks (segmentation): overlap and surface distances."""
