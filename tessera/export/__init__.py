"""Other runtimes: ONNX and OpenVINO graphs, int8 within bounds.

In reading order:

    graph.py     one graph for ONNX Runtime or OpenVINO, held against ours
    padded.py    the model as such a graph sees it: padded rows and a mask
    about.py     what an exported folder says of itself
    quantize.py  int8, measured before and after
"""
