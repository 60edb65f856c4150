"""The built-in teacher, `grammar`: writes exercises and textbook sections without a language model.

Two behaviours are the same when they give the same on the 20 fixed inputs of their signature. One in ten is held out
before a word is written: of those only the benchmark is made.
"""

from phi_jax.synthesis.grammar.catalogue import Known, behaviours, fixed_inputs, held_out
from phi_jax.synthesis.grammar.grammar_texts import Text, exercise, problem, quoted, textbook_section

__all__ = [
    "Known", "Text", "behaviours", "exercise", "fixed_inputs", "held_out", "problem", "quoted", "textbook_section",
]  # fmt: skip
