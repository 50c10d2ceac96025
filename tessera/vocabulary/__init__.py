"""What a tokenizer costs each language.

In reading order:

    fertility.py  what each language pays for a tokenizer
"""
