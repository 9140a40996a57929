"""What a run will need, before it is paid for: the tokens of its prompts, the memory of each card, its steps
and hours. No weight is downloaded, and nothing is trained unless a measurement is asked for.

    architecture.py  the sizes of a model, from its config; those of the presets' models ship in known.json
    tokens.py        the length of each stage's prompts, from the collection or from a declared size
    memory.py        bytes on a card by what they are for, under DDP and FSDP
    run.py           all of it for one RunConfig, and what to change where it doesn't fit
    measure.py       a few real steps on this machine: seconds and peak memory
"""
