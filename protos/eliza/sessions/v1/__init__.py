"""The stubs of the API, generated from the .proto files beside them by `protos/generate.py`."""
