"""Conversations as a model writes them: its template, and which tokens are the assistant's.

found       templates in the files of a tokenizer
template    one template, rendered in Jinja's sandbox
turns       the characters of the assistant's turns, and their tokens
"""
