"""Samples for models of language, made of texts: the user's, or those that come with corepress.

| file | what is in it |
| --- | --- |
| `builtin.py` | the texts in `texts/`: a file for each kind, pieces apart by lines that hold only `%` |
| `files.py` | texts from files of the user |
| `encoding.py` | tokenizers, of whatever library, as one function from a text to numbers |
| `layout.py` | what each input of a model is to hold of the tokens: they themselves, masks, places, kinds |
| `tokenize.py` | `tokenize`: the samples |

The texts that come along were written for this project; names, places and numbers in them are mostly invented. A
further kind of texts is a file beside these, a further kind of input a function of `layout.py`. The folder is not
`tokenize/`, since `corepress.tokenize` is the function.
"""
