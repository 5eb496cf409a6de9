"""Does the quickstart keep its promises?"""
