"""What a model with the head of a task says: labels, numbers, tags, answers, scores of documents.

In reading order:

    predictor.py    class Predictor: any folder with a head, ours or of transformers, on packed weights
    requests.py     rows of a user as examples, long texts in windows
    answers.py      logits as probabilities, entities with offsets, answers
    features.py     examples of a task as documents of tokens, with targets; logits as answers
    item_scores.py  logits of a head for them, with gradients in training
    words.py        plain text split into words, for taggers
    windows.py      question answering over long texts: sliding windows with a stride
    metrics.py      accuracy, F1, correlations, SQuAD, nDCG ...: a score, and what each example adds
"""
