"""Mixed precision from a budget: which weight gets which form, so that the model fits a size or keeps its answers.

In reading order: `candidates.py` lists the forms that a weight could get; `subject.py` says what the search knows of a
model, whatever its kind, and `packages.py` is that for packages; `damage.py` predicts what each form costs in the
model's answers; `allotment.py` chooses under a budget; `quality.py` measures a choice; `run.py` is the search itself,
and `result.py` what comes of it. One more kind of model: a `Subject` of its own. One more form: `candidates.py`.
"""
