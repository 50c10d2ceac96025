"""Pre-training: data and model, over time.

In reading order:

    trainer.py            one phase, through any number of interruptions
    start.py              where a phase starts: a checkpoint of its own, another phase, a folder, nothing
    reading.py            what a phase reads: its dataloader and planned mixture
    gradient.py           gradient accumulation and dropout, however a batch is cut
    embedding.py          objectives of sentence embeddings: distance to a teacher, InfoNCE with cached gradients
    freeze.py             frozen parameters: the embedding, the layers, all but new rows
    speed.py              micro-batch size, compiled layers, the residual stream
    bad_steps.py          a step that goes wrong, and whether the run may go on
    optimizer.py          AdamW, StableAdamW and Muon, their state as plain tensors
    checkpoint.py         a model folder with the training state beside it, whole or not there
    checkpoint_policy.py  when checkpoints are written, and which stay
    distributed.py        one process or many, as torchrun started them
    metrics.py            metrics.jsonl and TensorBoard events
    throughput.py         what a step took: tokens a second, MFU, waiting, packing, memory
    held_out.py           bits per byte of each language
    merge_models.py       several model folders into one
"""
