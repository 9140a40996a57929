"""One prompt pass for the G responses of a group in GRPO. The paper has no such step: it changes what
training costs, and not the loss (Eq. 1).

In GRPO on images a prompt is long and its G responses are short, yet they are usually run as G sequences,
each with a copy of the whole prompt. Here a prompt and its images are encoded once in generation, once in the
reference pass and once in the update. The numbers stay the same up to rounding. docs/performance.md says what
it saves.

    attention.py  attention in which G responses read the keys and values of one prompt
    packing.py    rows `[prompt | response 1 | ... | response G]`, and rollouts from one cache of the prompts
    trainer.py    both of them inside TRL's GRPOTrainer

Only `rarl.training.trainer` and `rarl.scoring.packed` import this package; the trainer and
`rarl.scoring.expected` say how to do without it. The package imports nothing of `rarl.training`.

Names of tensors end in their dimensions, in order, one letter each:

    B  prompts
    G  responses of a prompt
    N  responses of all prompts, B * G, a prompt's one after the other
    P  tokens of a prompt, padded on the left
    S  tokens of a prompt that are shared: P - 1, because its last token begins each response
    C  tokens of a response, padded on the right
    T  tokens of all responses to a prompt, G * C
    L  tokens of a row or sequence: S + T in a packed row, S + C or P + C in one response with its prompt
    H  heads of queries
    K  heads of keys and values, H or fewer
    R  heads of queries that read one head of keys, H / K
    D  size of a head
    M  images
    V  values of a patch of an image
    X  rows of any kind, where it does not matter which
    1  a dimension of size 1
    3  temporal, height and width, of positions and of an image's grid

So `response_ids_NC` are the tokens of all responses, and `scores_BGKRL` the attention scores of a new token.
"""
