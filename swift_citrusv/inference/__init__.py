"""From a request to its masks: `[SEG]` states of one generation, masks at the image's own size, overlays.

It neither trains nor patches, and knows nothing of the command line or the page.
"""
