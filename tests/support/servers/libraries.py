"""Imports what commands import that is not ours: whoever is forked from a process that holds it need not."""

import gc

import ax.api.client
import datasets
import jinja2
import pandas
import peft
import pydantic
import rich.live
import scipy.stats
import sklearn.linear_model
import sqlalchemy
import torch
import transformers.trainer
import typer

LOADED = (ax, datasets, jinja2, pandas, peft, pydantic, rich, scipy, sklearn, sqlalchemy, torch, transformers, typer)
# What the forks never give back need not be looked at by any of them.
gc.freeze()
