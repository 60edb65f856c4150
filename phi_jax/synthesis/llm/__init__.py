"""Texts by language models: what they are asked for, and the checks that every text of theirs, or of people, passes."""
