"""Random reference and predicted boxes."""
import numpy as np

from swift_citrusv.scoring.boxes.box_text import Box


def random_rows(number, labels=('a', 'b', 'c'), scored=True, seed=0):
    """Rows of reference and predicted boxes, some of them near, some elsewhere, some rows without any."""
    generator = np.random.default_rng(seed)

    def boxes(count):
        corners = generator.integers(0, 60, (count, 2))
        return np.concatenate([corners, corners + generator.integers(5, 40, (count, 2))], axis=1).astype(float)

    rows = []
    for _ in range(number):
        wanted = boxes(generator.integers(0, 5))
        near = wanted[generator.random(len(wanted)) < 0.8]
        drawn = np.concatenate([near + generator.integers(-4, 5, near.shape), boxes(generator.integers(0, 3))])
        drawn[:, 2:] = np.maximum(drawn[:, 2:], drawn[:, :2] + 1)
        names = generator.choice(labels, len(wanted))
        guesses = generator.choice(labels, len(drawn))
        # Boxes near a reference box mostly have its label.
        guesses[:len(near)] = np.where(
            generator.random(len(near)) < 0.8, names[:len(near)] if len(near) == len(names) else guesses[:len(near)],
            guesses[:len(near)])
        values = generator.integers(0, 20, len(drawn)) / 20 if scored else [None] * len(drawn)
        rows.append(([Box(tuple(box), name) for box, name in zip(wanted.tolist(), names)],
                     [Box(tuple(box), name, score) for box, name, score in zip(drawn.tolist(), guesses, values)]))
    return rows
