"""Other runtimes: ONNX and OpenVINO export, int8 quantization within bounds.

In reading order:

    graph.py       export to ONNX and OpenVINO: one graph, in numerical parity with our model
    padded.py      the forward pass that such a graph has: padded rows and an attention mask
    model_card.py  the card of an exported folder: the lines that run it, and its parity with ours
    quantize.py    post-training quantization to int8, measured before and after
"""
