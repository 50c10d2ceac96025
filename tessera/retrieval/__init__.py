"""Retrieval models out of pairs: dense retrievers, rerankers, and students that learn the vectors of a teacher.

In reading order:

    retriever.py     a bi-encoder: queries and documents to vectors; its folder
    contrastive.py   trained in the loop of fine-tuning: InfoNCE, cached gradients, hard negatives
    pairs.py         queries with judged documents, sentences with translations, out of rows
    ranking.py       rankings by a retriever, and measures of them: nDCG, MRR, recall
    cards.py         the model card of what comes out
    sweep.py         a learning-rate sweep that goes on after a kill
    retrieve.py      a retriever out of pairs, chosen on held-out queries, as a folder
    rerank.py        a cross-encoder out of pairs: negatives for it, and what it is to put in order
    teacher.py       the vectors of a teacher, computed once and kept
    token_states.py  a teacher's hidden states, over the segments that two tokenizers have in common
    schedule.py      which pairs each step of distillation learns from, languages by temperature
    agreement.py     how near a student is to its teacher
    distil.py        a student that learns these vectors, also for translations, as a folder
    from_files.py    each of the three out of files

The loop is finetune/loop.py.
"""
