"""A data frame: from columns to intervals that hold what they promise."""

from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import smilax as sx

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

model = sx.SmileRegressor(hidden=(16,), num_chains=4, random_state=0).fit(X_train, y_train)
lower, upper = model.predict_interval(X_test, level=0.9)

print(f"R² {model.score(X_test, y_test):.2f}")
print(f"90 % intervals hold {((lower <= y_test) & (y_test <= upper)).mean():.0%} of the test rows")
