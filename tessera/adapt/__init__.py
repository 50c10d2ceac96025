"""Adapting a released model to languages of one's own: looked at, trimmed, extended, trained on, averaged, compared.

In reading order:

    look.py          a look at a model: measurements, verdicts, what they cost here
    sample.py        samples of text by language, identified where nobody says it
    measure.py       tokens, hidden words and speed of a model in each language
    hidden_words.py  pseudo-perplexity of whole words: bits per byte that compare between tokenizers
    verdict.py       use as it is, trim, extend, continue training, teach from the start; with reasons and doubts
    asked.py         what is asked for, kept beside what is made
    adapted.py       what is said before, kept in the folder, and returned
    given.py         the text that is given: what the paths of the command hold
    recipe.py        the recipe of an adaptation: continued pre-training, replay, an average
    retention.py     bits per byte of hidden words before and after, by language
    tasks.py         task scores before and after, in the languages at hand
    passages.py      what an embedding model is taught on: passages with new pieces, translations
    vectors.py       vectors before and after, by language: cosines, translations that are found
    embedder.py      an embedding model adapted: extended, taught to give the vectors that it gave
    adapt.py         the whole way: look, trim, extend, train, average, compare
"""
