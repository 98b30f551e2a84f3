"""Refinement: what a compressed model stores is learnt, so that it answers as its original does.

`refine.py`    the public function: from an original, a compressed model and samples to a better one of the same size
`options.py`   the settings of it in recipes, and as the last step of something else
`functions.py` several functions, or the stages of a pipeline, as one
`ranges.py`    which scales of quantized activations learn
`student.py`   which constants of a program learn, and running it on several samples at once
`cuts.py`      where a program can be cut in two: what a student learns of its blocks
`distance.py`  how far the student's outputs are from the teacher's, as something to minimise
`whole.py`     all of it, of packages and of modules (`corepress.torch.refine`): the training, and what it gained
`training.py`  the steps: rates, the best state, time, what is held back
`kept.py`      what a refinement has come to, on disk, to go on from
`result.py`    what came out

The modules that learn are in `algorithms/learned/stored.py`, one for each form. A further form is one more class there.
"""
