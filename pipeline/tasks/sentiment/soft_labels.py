"""Training targets smoothed by a linear model's cross-validated predictions.

Eight thousand short reviews are few for a transformer, and their labels are noisy. A linear model of words, word
pairs and letters generalises better from so little; its predictions on reviews it was not fitted to are mixed into
the targets (distillation, Hinton et al., arXiv 1503.02531). No held-out review is seen.
"""

from __future__ import annotations

import numpy as np

FOLDS = 5
INVERSE_REGULARIZATION = 3.0


def soft_labels(texts: list[str], fresh: list[bool], teacher_share: float) -> list[float]:
    """Return a target in [0, 1] for each text: label and teacher's probability, mixed.

    Args:
        texts: The training texts.
        fresh: Their labels.
        teacher_share: Weight of the teacher; 0 returns the labels.
    """
    labels = np.array(fresh, dtype=float)
    if teacher_share == 0:
        return [float(value) for value in labels]
    # Workers load what was built, and need none of it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=3, sublinear_tf=True)
    features = make_union(words, letters).fit_transform(texts)
    teacher = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=300)
    predicted = cross_val_predict(teacher, features, labels > 0.5, cv=FOLDS, method="predict_proba")[:, 1]
    return [float(value) for value in (1 - teacher_share) * labels + teacher_share * predicted]
