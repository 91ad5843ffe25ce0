"""Readers and writers of annotation formats, one file each.

A reader module has ``detect(path) -> Evidence | None`` and
``read(path, problems, options) -> Dataset``; `wsseg.data.discover` lists them. Ground-truth masks
only become `Sample.mask_path`; they turn into labels when the user says so (``use_masks``).
"""
