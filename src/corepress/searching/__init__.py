"""Mixed precision from a budget: which weight gets which form, so that the model fits a size or keeps its answers.

In reading order: `subject.py` says what the search knows of a model, whatever its kind; `packages.py`, `networks.py`
and `modules.py` are that for each kind, and `candidates.py` lists the forms that their weights could get. `damage.py`
predicts what each form costs in the model's answers, `allotment.py` chooses under a budget, `quality.py` measures a
choice, and `loop.py` does that again and again. `activations.py` decides afterwards which operations compute with
integers, for which `integers.py` knows the forms. `run.py` decides where it happens (`workers.py`, `handed.py`) and
what is kept of it (`kept.py`); `search.py` is what users call, `goals.py` what they ask, `result.py` and `recipes.py`
what they get. One more kind of model: a `Subject` of its own. One more form: `candidates.py`.
"""
