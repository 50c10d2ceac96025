"""A model's life as a Hugging Face folder, ours and those that transformers runs; heads for fine-tuning; model merging.

In reading order:

    hub.py                  loading and saving of Hugging Face folders
    hf_names.py             names of weights and fields there and here: one table a family, both ways
    hf_files.py             files of a Hugging Face folder: JSON by schemas, weights in safetensors
    task_heads.py           heads for fine-tuning: documents, tokens, spans, choices
    transformers_model.py   BERT, XLM-R, DeBERTa, MiniLM behind our interface, run by transformers
    transformers_folder.py  loading of their folders through transformers, tried before it is trusted
    transformers_tasks.py   the same with the head of a task: loaded, or drawn anew
    model_card.py           the README.md of a model folder
    merging.py              model merging: TIES, linear and exponential averages, and what may be merged
"""
