"""Rows that break the row contract, each with words of its error message."""
from support.rows import box_mask, rle

GOOD_SIZE = (84, 84)
MASK = rle(box_mask(GOOD_SIZE, (5, 5, 40, 40)))


def make_row(answer='The cell: [SEG].', question='<image>Segment the cell.', **columns):
    messages = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
    return {'messages': messages, 'images': ['good.png'], 'masks': [MASK], **columns}


# name -> (row, or a raw line; words that the message must contain)
BAD_ROWS = {
    'line is not JSON': ('{"messages": [', ['not JSON']),
    'line is not UTF-8': (b'{"messages": "\xff"}', ['UTF-8', 'ff']),
    'line with a huge integer': ('{"messages": ' + 5000 * '9' + '}', ['not JSON', '999']),
    'line nested too deeply': (3000 * '[{"a":', ['not JSON', 'nested']),
    'line is a list': ('[1, 2]', ['list']),
    'no messages': ({
        'messages': [],
        'masks': [MASK]
    }, ['messages']),
    'a message without role': (make_row() | {
        'messages': [{
            'content': 'x'
        }]
    }, ['role']),
    'a message without content': (make_row() | {
        'messages': [{
            'role': 'user'
        }]
    }, ['content']),
    'two [SEG], one mask': (make_row('[SEG] and [SEG].'), ['2', '1']),
    'one [SEG], two masks': (make_row(masks=[MASK, MASK]), ['1', '2']),
    '[SEG] only in the question': (make_row('The cell.', '<image>Segment [SEG].'), ['0', '1']),
    'masks without an image': (make_row(images=[]), ['image']),
    'masks on a video only': (make_row(question='<video>Segment.', images=[], videos=['v.mp4']), ['video']),
    'two images, no mask_images': (make_row(images=['good.png'] * 2), ['mask_images']),
    'mask_images too short': (make_row(images=['good.png'] * 2, mask_images=[]), ['mask_images']),
    'mask_images out of range': (make_row(images=['good.png'] * 2, mask_images=[2]), ['2']),
    'mask_images negative': (make_row(images=['good.png'] * 2, mask_images=[-1]), ['-1']),
    'mask_images not a number': (make_row(images=['good.png'] * 2, mask_images=['a']), ['a']),
    'mask_images without masks': (make_row('A cell.', masks=None, mask_images=[0]), ['mask_images']),
    'masks is a number': (make_row(masks=5), ['masks']),
    'mask of unknown form': (make_row(masks=[{
        'foo': 1
    }]), ['foo']),
    'RLE of another size': (make_row(masks=[rle(box_mask((40, 60), (5, 5, 20, 20)))]), ['40', '60', '84']),
    'RLE with a broken string': (make_row(masks=[{
        'size': [84, 84],
        'counts': 'not an RLE'
    }]), ['masks[0]']),
    'RLE with negative runs': (make_row(masks=[{
        'size': [84, 84],
        'counts': [-5, 7061]
    }]), ['-5']),
    'RLE that is too short': (make_row(masks=[{
        'size': [84, 84],
        'counts': [10, 20]
    }]), ['7056']),
    'RLE bomb': (make_row(masks=[{
        'size': [10**6, 10**6],
        'counts': [10**12]
    }]), ['1000000']),
    'polygon with an odd count': (make_row(masks=[[[1, 2, 3, 4, 5]]]), ['masks[0]']),
    'polygon with a NaN': (make_row(masks=[[[1, 2, 30, 4, float('nan'), 60]]]), ['nan']),
    'polygon outside the image': (make_row(masks=[[[900, 900, 950, 900, 950, 950]]]), ['masks[0]']),
    'mask file missing': (make_row(masks=[{
        'path': 'nowhere.png'
    }]), ['nowhere.png']),
    'mask file of another size': (make_row(masks=[{
        'path': 'small_mask.png'
    }]), ['40', '84']),
    'label in a colour file': (make_row(masks=[{
        'path': 'colour_mask.png',
        'label': 1
    }]), ['RGB']),
    'image is null': (make_row(images=[None]), ['images[0]', 'None']),
    'image is a number': (make_row('A cell.', masks=None, images=[5]), ['images[0]', '5']),
    'image part is a number': ({
        'messages': [{
            'role': 'user',
            'content': [{
                'type': 'image',
                'image': 5
            }]
        }, {
            'role': 'assistant',
            'content': 'A cell.'
        }]
    }, ['images[0]', '5']),
    'image that is not base64': (make_row(images=['data:image/png,x']), ['data:image/png,x']),
    'more <image> than images': (make_row(question='<image><image>Segment.'), ['<image> 2 times', '1 images']),
    '<image> in the answer': (make_row('<image>: [SEG].'), ['<image> 2 times', '1 images']),
    '<image> without images': (make_row('A cell.', images=None, masks=None), ['<image> 1 times', '0 images']),
    '<image> in the system turn': (make_row('A cell.', masks=None) | {
        'messages': [{
            'role': 'system',
            'content': '<image>'
        }, *make_row('A cell.')['messages']]
    }, ['<image> 2 times', '1 images']),
    'more <video> than videos': (make_row(question='<video><image>Segment.'), ['<video> 1 times', '0 videos']),
    'no messages, where other rows have them': ({
        'query': 'Hello?',
        'response': 'Hello.'
    }, ['messages', 'drop']),
    "'image', where other rows have 'images'": ({
        'messages': make_row('A cell.')['messages'],
        'image': 'good.png'
    }, ["'image'", "'images'"]),
    'a part without type': (make_row('A cell.', [{
        'text': 'What is it?'
    }], masks=None, images=None), ['KeyError', 'type']),
    'images in parts and in the row': (make_row(question=[{
        'type': 'image',
        'image': 'good.png'
    }]), ['AssertionError', 'good.png']),
    'image missing': (make_row(images=['nowhere.png']), ['nowhere.png']),
    'image truncated': (make_row(images=['truncated.png']), ['truncated.png']),
    'image of zero bytes': (make_row(images=['empty.png']), ['empty.png']),
    'image is a web page': (make_row(images=['page.png']), ['page.png']),
    'image is a folder': (make_row(images=['folder.png']), ['folder.png']),
    'image of an ordinary row missing': (make_row('A cell.', masks=None, images=['nowhere.png']), ['nowhere.png']),
    'row too long': (make_row('word ' * 2000 + '[SEG].'), ['512', 'max_length']),
}
