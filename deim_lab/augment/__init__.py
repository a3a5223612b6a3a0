"""Dense O2O and the plain augmentations: frozen callables, ``(scene, generator) → scene``.

``single`` changes one image, ``mosaic`` joins four, ``mixup`` blends a batch, ``pipeline`` says
which of them a phase runs, ``density`` counts the targets that come out. Nothing here touches the
global random state: same input and generator, same output.
"""
