"""What is wrong with a built dataset, said before a model learns it: `python -m tfds_builders.audit DATASET_DIR`.

`__main__` is the command, `audit` the whole of it as a function. `dataset` reads what a build left; `scan` decodes a
sample, of each image of which `container`, `grid` and `hashing` take what they need. `shortcut`, `duplicates`,
`near_duplicates` (with `neighbours`), `leaks`, `balance` and `files` look for one kind of defect each and return
numbers and findings; `statistics` counts. `report` makes the page, from `sections`, `charts` and `pictures`.
"""
