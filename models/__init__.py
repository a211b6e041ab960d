"""Networks and estimators: tensors in, tensors out. Imports no Ray, no Zarr, no STAC; names no sensor.

Read in this order: restorer (the contract), card, checkpoint, signal, then one folder for each task.
"""
