"""scikit-learn estimators: a table in, predictions with calibrated uncertainty out."""

from smilax.estimators.classifier import SmileClassifier as SmileClassifier
from smilax.estimators.regressor import SmileRegressor as SmileRegressor
