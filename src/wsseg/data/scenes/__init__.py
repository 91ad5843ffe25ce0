"""Synthetic scenes with exact masks, made so that the known failures of CAM occur in them.

Five families, each fast, seeded and without any file:

* ``parts``: the class shows only in a small part of the object.
* ``graded``: the class shows clearly in a small part, and faintly in the rest.
* ``cooccurrence``: a train always stands on a rail, a boat on water; both are background.
* ``instances``: several touching objects of several classes, from 5 % to 60 % of the image.
* ``defects``: scratches, dents, stains and pores on metal or fabric, with flawless images.

They serve the demo, the tests and the effect benchmarks.
"""

from __future__ import annotations

from wsseg.data.scenes.canvas import Scene
from wsseg.data.scenes.families import CLASSES, FAMILIES, make_scene
from wsseg.data.scenes.writing import make_dataset, scene_seed

__all__ = ["CLASSES", "FAMILIES", "Scene", "make_dataset", "make_scene", "scene_seed"]
