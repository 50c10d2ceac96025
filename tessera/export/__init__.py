"""Other runtimes: ONNX and OpenVINO export, int8 quantization within bounds.

In reading order:

    graph.py          export to ONNX and OpenVINO: one graph, in numerical parity with our model
    heads.py          the same of a classifier, a tagger, a reader, a reranker: the logits of its head
    padded.py         the forward pass that such a graph has: padded rows and an attention mask
    tracing.py        that forward pass as a graph
    model_card.py     the card of an exported folder: the lines that run it, and its parity with ours
    quantize.py       post-training quantization to int8, measured before and after
    quantize_head.py  the same with the head of a task: whether its answers stay what they were
    real_text.py      texts, and pairs of translations, that engines are measured on
    head_scores.py    the score of a head's answers, and labelled rows to measure it on
    int8.py           int8 weights and activations of a graph, calibrated
    candidates.py     engines that may run a model here, each opened as it will be
    tune_vectors.py   what an engine's vectors lose beside float32, by language
    tune_head.py      the same of the answers of a head
    tune.py           which of them is fastest on this machine within bounds of quality
"""
