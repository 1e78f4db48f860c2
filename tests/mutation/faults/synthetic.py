"""Faults of the drawn radiographs."""

from tests.mutation.fault import fault

_ALL = "synthetic/test_synthetic.py"
_FILM = f"{_ALL}::test_a_film_turns_without_bending_and_a_window_lies_where_the_body_does"
_ONCE = f"{_ALL}::test_a_patient_is_drawn_once_and_a_seed_draws_the_film_too"
FAULTS = [
    fault("synthetic/dataset.py", "every picture has a patient of its own", "_PERSON, index // self.images_per_patient)", "_PERSON, index)", _ONCE),
    fault("synthetic/dataset.py", "the seed is ignored", "np.random.default_rng((self.seed, _PICTURE, index))", "np.random.default_rng((0, _PICTURE, index))", _ONCE),
    fault("synthetic/dataset.py", "the marker is drawn the more seldom the likelier", "lottery < self.shortcut.probability(label)",
          "lottery >= self.shortcut.probability(label)", _ALL),
    fault("synthetic/dataset.py", "evidence under the marker counts", "evidence & ~marker, marker", "evidence, marker", _ALL,
          equivalent="no opacity reaches the corner where the marker is"),
    fault("synthetic/dataset.py", "the marker hides no lung", "(thorax.lungs > 0.5) & ~marker, evidence", "(thorax.lungs > 0.5), evidence", _ALL),
    fault("synthetic/dataset.py", "the transform is not applied", "return self.transform(sample) if self.transform else sample", "return sample", _ALL),
    fault("synthetic/dataset.py", "without_shortcut changes the data set itself", "plain = copy.copy(self)", "plain = self", f"{_ALL}::test_removing_the_shortcut_changes_the_marker_and_nothing_else"),
    fault("synthetic/opacities.py", "contrast is ignored", "added[near] += contrast * patch.density", "added[near] += patch.density", _ALL),
    fault("synthetic/opacities.py", "opacities lie also outside the lungs", "return added, evidence & (thorax.lungs > 0.5)", "return added, evidence", _ALL),
    fault("synthetic/opacities.py", "a strength in between is all or nothing", "return self.base_rate * (1.0 - self.strength)", "return self.base_rate", _ALL),
    fault("synthetic/opacities.py", "half axes of an opacity are exchanged", "square = np.square((across * cos + down * sin) / patch.half_width)",
          "square = np.square((across * cos + down * sin) / patch.half_height)", _ALL),
    fault("synthetic/opacities.py", "patches are tilted the other way in the evidence", "square += np.square((down * cos - across * sin) / patch.half_height)",
          "square += np.square((down * cos + across * sin) / patch.half_height)", _ALL),
    fault("synthetic/film.py", "the window lies where the body does not", "column = (cos * x - sin * y + self.shift[0] + 1.0)",
          "column = (cos * x - sin * y - self.shift[0] + 1.0)", _FILM),
    fault("synthetic/film.py", "a turned film is turned twice", "np.float32(cos) * down - np.float32(sin) * across)", "np.float32(cos) * down + np.float32(sin) * across)", _FILM),
    fault("synthetic/film.py", "grey values leave [0, 1]", "return np.minimum(np.maximum(tone, 0.0), 1.0)", "return tone", _ALL),
    fault("synthetic/film.py", "lungs are bright", "(attenuation - self.low) * scale", "(self.high - attenuation) * scale", _ALL),
]  # fmt: skip
