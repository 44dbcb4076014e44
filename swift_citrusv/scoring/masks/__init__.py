"""`citrusv eval segmentation`: overlap and surface distances of masks."""
