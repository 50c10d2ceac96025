"""What a model with the head of a task says: labels, numbers, tags, answers, scores of documents.

In reading order:

    predictor.py         class Predictor: any folder with a head, ours or of transformers, on packed weights
    predict_file.py      a file of rows into a file of predictions, through interruptions
    roles.py             which columns of a table hold what the model reads
    prediction_files.py  the columns of JSON lines, CSV and parquet
    rerank.py            hits of a search in the order of a cross-encoder
    requests.py          rows of a user as examples, long texts in windows
    answers.py           logits as probabilities, entities with offsets, answers
    tags.py              BIO, BIOES, BILOU: where the tags of words say that entities begin and go on
    features.py          examples of a task as documents of tokens, with targets; logits as answers
    item_scores.py       logits of a head for them, with gradients in training
    words.py             plain text split into words, for taggers
    windows.py           question answering over long texts: sliding windows with a stride
    ranking_metrics.py   nDCG, recall, MRR, average precision
    metrics.py           accuracy, F1, correlations, SQuAD, nDCG ...: a score, and what each example adds
"""
