"""Values of images: the greedy reply's, or the mean of a distribution over all answers; and joined ones.

    distribution.py  distributions over a task's values: mean, median, interval, temperature
    candidates.py    the replies that there can be, as tokens
    trie.py          a fine grid by its digits
    packed.py        log-probs of replies in one pass that shares the prompt and the image
    expected.py      a model's distributions for images
    scoring.py       how a model scores best, as it stands in its folder (scoring.json)
    values.py        the values of images, as a `Scoring` says
    windows.py       values joined with those that images get in lists, which put lists of any length in order

The paper has greedy replies alone (section 4.1), and they stay its numbers. What is best for a model is
chosen in `rarl.evaluation.choosing`, on validation.
"""
