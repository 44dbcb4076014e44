"""Cases are stored by column, with gaps filled."""
import numpy as np

from swift_citrusv.scoring.cases import Case
from swift_citrusv.scoring.table import CaseTable


def test_table_fills_what_is_missing():
    table = CaseTable()
    table.add_row('a', 'p', {'organ': 'liver'}, [Case({'x': 1.}), Case({'y': 2.}, ('odd', 'odd'), {'part': 'left'})])
    table.add_row('b', 'p', {}, [])
    table.add_row('c', 'q', {}, [Case({'x': 3.}, data=[1])])
    table.close()
    np.testing.assert_array_equal(table.columns['x'], [1, np.nan, 3])
    np.testing.assert_array_equal(table.columns['y'], [np.nan, 2, np.nan])
    assert table.groups == {'organ': ['liver', 'liver', ''], 'part': ['', 'left', '']}
    assert table.data == [None, None, [1]] and table.flag_counts() == {'odd': 1}
    assert [table.case_name(i) for i in range(3)] == ['a#1', 'a#2', 'c'] and table.rows.tolist() == [0, 0, 2]
