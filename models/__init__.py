"""Networks and estimates: tensors in, tensors out. Knows no Ray, no Zarr, no STAC and no sensor.

Read in this order: restorer (the contract), card, checkpoint, signal, then a folder for each task.
"""
