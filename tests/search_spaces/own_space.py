"""A space as a user would write one: lambda alone, under prefix credit."""

from search_spaces import CreditMix


def lambda_only(base, methods, gae_lambda, balance):
    return CreditMix(base, ("prefix",), gae_lambda, (1.0, 1.0))


NUMBER = 3
