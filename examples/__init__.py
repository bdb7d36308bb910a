"""Programs of the gallery (docs/gallery.md), each a script of its own. Installed as rnnkern.examples."""
