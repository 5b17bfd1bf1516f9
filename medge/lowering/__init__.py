"""Passes that rewrite an ONNX graph for a backend; medge.onnx_lowering puts them in order."""
