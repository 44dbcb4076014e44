"""The texts of the page, in English and Chinese."""
from dataclasses import dataclass


@dataclass(frozen=True)
class PageTexts:
    """The texts of the page; those with braces are `str.format` templates."""
    title: str
    caution: str
    files: str
    chat: str
    question: str
    placeholder: str
    ask: str
    stop: str
    new: str
    examples: str
    settings: str
    temperature: str
    temperature_info: str
    max_tokens: str
    seed: str
    seed_info: str
    plane: str
    index: str
    volume: str
    window: str
    window_info: str
    run_window: str
    remove_slice: str
    shown_answer: str
    opacity: str
    empty: str
    image: str
    actual_size: str
    mask: str
    phrase: str
    area: str
    score: str
    all: str
    download: str
    as_overlay: str
    as_png: str
    as_rle: str
    as_nifti: str
    as_seg: str
    pixels: str
    sides: dict[str, str]
    asked_files: str
    stored: str
    out_of_range: str
    no_masks: str
    empty_mask: str
    hidden: str
    stopped: str
    waiting: str
    no_image: str
    no_question: str
    busy: str
    tags: str
    lost: str


ENGLISH = PageTexts(
    title='Ask about images and view the masks',
    caution='Research software, not a medical device. Images stay on the computer that serves this page.',
    files='Images (PNG, JPEG, TIFF, DICOM, NIfTI, ...)',
    chat='Conversation',
    question='Question',
    placeholder='Segment the ...',
    ask='Ask',
    stop='Stop',
    new='New conversation',
    examples='Examples',
    settings='Settings',
    temperature='Temperature',
    temperature_info='0: always the most likely token',
    max_tokens='Maximum tokens of an answer',
    seed='Seed',
    seed_info='for sampling; empty: a different one each time',
    plane='Plane',
    index='Slice, from 0',
    volume='Volume, from 0',
    window='Window',
    window_info='or level and width, e.g. 40,400',
    run_window='from the file',
    remove_slice='Remove this slice',
    shown_answer='Answer',
    opacity='Mask opacity',
    empty='Images and masks appear here.',
    image='Image {}',
    actual_size='1:1',
    mask='Mask',
    phrase='Phrase',
    area='Area',
    score='Score',
    all='all',
    download='Download selected masks',
    as_overlay='Overlay (PNG)',
    as_png='Label map (PNG)',
    as_rle='RLE (JSON)',
    as_nifti='Label map (NIfTI)',
    as_seg='DICOM-SEG',
    pixels='{} pixels',
    sides={
        'R': 'right',
        'L': 'left',
        'A': 'front',
        'P': 'back',
        'H': 'head',
        'F': 'feet'
    },
    asked_files='Images: {} in this conversation, add more here',
    stored='as stored',
    out_of_range='{} is no number of a slice or volume: give a whole number from 0 to {}.',
    no_masks='This answer has no masks.',
    empty_mask='empty: not in the image',
    hidden='In label maps, overlapping pixels belong to the last mask.',
    stopped='(stopped)',
    waiting='...',
    no_image='There is no image to ask about. Add one first.',
    no_question='There is no question. Write one, or pick an example.',
    busy='The last question is still being answered. Wait, or stop it.',
    tags='The question has <image> {} times, but there are {} new images. Remove <image>, or write it once per image.',
    lost='This conversation is gone: the server was restarted, or deleted it after long inactivity. Reload the page.')

CHINESE = PageTexts(
    title='针对图像提问并查看分割结果',
    caution='研究软件，非医疗器械。图像只保存在提供此页面的计算机上。',
    files='图像（PNG、JPEG、TIFF、DICOM、NIfTI 等）',
    chat='对话',
    question='问题',
    placeholder='请分割……',
    ask='提问',
    stop='停止',
    new='新对话',
    examples='示例',
    settings='设置',
    temperature='温度',
    temperature_info='0：总是取概率最大的词',
    max_tokens='回答的最大词元数',
    seed='随机种子',
    seed_info='留空则每次不同',
    plane='平面',
    index='切片序号（从 0 开始）',
    volume='体数据序号（从 0 开始）',
    window='窗',
    window_info='或窗位与窗宽，例如 40,400',
    run_window='按文件设定',
    remove_slice='移除此切片',
    shown_answer='显示的回答',
    opacity='掩膜不透明度',
    empty='图像和掩膜将显示在这里。',
    image='图像 {}',
    actual_size='1:1',
    mask='掩膜',
    phrase='短语',
    area='面积',
    score='得分',
    all='全部',
    download='下载勾选的掩膜',
    as_overlay='叠加图 (PNG)',
    as_png='标签图 (PNG)',
    as_rle='RLE (JSON)',
    as_nifti='标签图 (NIfTI)',
    as_seg='DICOM-SEG',
    pixels='{} 像素',
    sides={
        'R': '右',
        'L': '左',
        'A': '前',
        'P': '后',
        'H': '头',
        'F': '足'
    },
    asked_files='图像：本对话已有 {} 幅，可在此继续添加',
    stored='按存储',
    out_of_range='{} 不是切片或体数据的序号：请输入 0 到 {} 的整数。',
    no_masks='此回答没有掩膜。',
    empty_mask='空：图像中没有',
    hidden='标签图中，重叠的像素取最后一个掩膜。',
    stopped='（已停止）',
    waiting='……',
    no_image='没有可提问的图像，请先添加图像。',
    no_question='没有问题。请输入问题，或选择一个示例。',
    busy='上一个问题还在回答中，请等待或停止。',
    tags='问题中有 {} 个 <image>，而新图像有 {} 幅。请去掉 <image>，或每幅图像写一个。',
    lost='此对话已不存在：服务器已重启，或在长时间无操作后将其删除。请重新加载页面。')

LANGUAGES = {'en': ENGLISH, 'zh': CHINESE}
