"""The built-in teacher, `grammar`: writes exercises and textbook sections without a language model.

Two behaviours are the same when they give the same on the 20 fixed inputs of their signature. One in ten is held out
before a word is written: of those only the benchmark is made.
"""
