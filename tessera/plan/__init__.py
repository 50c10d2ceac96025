"""What will be done, and the arithmetic of it: recipes, schedules, mixtures, cost. No numpy, no torch.

In reading order:

    recipe.py        a whole run as strict models
    phase.py         one stretch of training: mixture, rate, masks, or a teacher or translations to learn from
    corpus.py        the text of a run as strict models
    evaluation.py    what is measured in a run: tasks of the catalogue; those of older recipes are translated
    task.py          what is asked of a model, and how it is trained for it
    task_data.py     where the rows of a task lie, its splits, which column is what
    architecture.py  one configuration for both families, its presets, parameters and FLOPs
    mixture.py       the data mixture and its curriculum: fixed shares, temperature, moving shares, a cap on epochs
    fit.py           lengths of phases that fit the text at hand, where a cap on epochs refuses those of the recipe
    schedule.py      batch size, learning rate and mask: pure functions of tokens read
    cost.py          FLOPs, memory and hours on common GPUs
    token_counts.py  how much text there is: from shards, or from a table of counts
    loading.py       a recipe out of a YAML file and back, dotted overrides, what two differ in
    shipped.py       recipes and extras that come with tessera: recipes by name, the pip command of an extra
    errors.py        what is wrong with a recipe, in words for the person who wrote it
    languages.py     codes of languages in one spelling, deu_Latn
    fields.py        strict models, names, 2.3T tokens, 50MB of text, a share between 0 and 1
"""
