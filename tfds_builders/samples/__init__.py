"""Small corpora of real and re-synthesised images in each source's own layout, cut from shipped photographs."""
