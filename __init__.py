"""Assay: what is a model watermark worth?

The map of the house, in reading order:

conf/         what can be run: one folder per choice, one yaml per option
core/         the vocabulary: contracts, exact statistics, named seeds, secrets and keys
kernels/      one file per operation on suspects x keys; knows tensors only
zoo/          tasks: data, models, and the training they share
deployments/  how a model is reached: open weights, an API that returns scores, one that returns labels
watermarks/   one file per scheme
attacks/      one file per attack
leaderboard/  results store, ranking, the static page
experiments/  the verbs: run a trial, a suite; the artifact cache; the command line
"""

__version__ = "0.1.0.dev0"
