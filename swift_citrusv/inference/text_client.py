"""Answers without masks, from an OpenAI-compatible server: vLLM, SGLang, `swift deploy`, or another.

Each answer is asked for with the ids of its tokens, because a text can be cut into other tokens than those that the
model chose, and their hidden states differ. vLLM and SGLang (`return_token_ids`) and `swift deploy` (`return_details`)
give them.
"""
import base64
import openai
import os
from io import BytesIO
from PIL import ExifTags, Image
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import RowError
from ..files.images import open_image, to_rgb

# Beside OpenAI's own fields: each server takes what it knows. `[SEG]` and whatever else is special stay in the text.
_EXTRAS = {
    'return_token_ids': True,
    'return_details': True,
    'skip_special_tokens': False,
    'spaces_between_special_tokens': False
}
# The same for every row: to go on would mean to fail with each.
_FOR_ALL_ROWS = {
    401: 'Name the environment variable with the key by --api-key-env.',
    403: 'Name the environment variable with the key by --api-key-env.',
    404: 'Name the model by --served-model, and look at the path of --text-from.',
    429: 'Lower --concurrency; what is answered stays, and the same command goes on from there.',
}
_GO_ON = 'When it is up again, the same command goes on where this one stopped.'
# Formats that every server decodes to the pixels that PIL decodes here.
_SENT_AS_THEY_ARE = {'PNG': 'image/png', 'JPEG': 'image/jpeg'}


class ServedText(NamedTuple):
    """What a server answered.

    text: The answer.
    token_ids: Of its tokens, where the server tells.
    prompt_ids: Of the tokens of the prompt, where the server tells.
    finish_reason: 'stop', 'length', ...
    """
    text: str
    token_ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    finish_reason: str | None = None


class TextServer:
    """A model that a server holds; several threads may ask it at once.

    Args:
        url: Of the server: 'http://host:8000', or with the path that stands before 'chat/completions'.
        model: Its name there; the only one that the server has by default.
        api_key: What the server wants to see.
        generation: max_tokens, temperature, top_p, seed, stop: what OpenAI's API has.
        retries: How often an answer is asked for again after 408, 409, 429, 5xx, or without a connection; the waits
            grow from half a second to eight, or are those that the server names.
        timeout: Seconds for one answer.

    Raises:
        ConnectionError: There is no such server, or it does not let us in.
        ValueError: It is no URL, or the server has several models.
    """

    def __init__(self,
                 url: str,
                 model: str | None = None,
                 *,
                 api_key: str | None = None,
                 generation: dict[str, Any] | None = None,
                 retries: int = 8,
                 timeout: float = 600.) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.netloc:
            raise ValueError(f'{url!r} is no URL of a server. Write it as http://host:8000.')
        path = parts.path.rstrip('/').removesuffix('/chat/completions') or '/v1'
        self.url = f'{parts.scheme}://{parts.netloc}{path}'
        # A client wants some key. None is read from OPENAI_API_KEY: this is another server.
        self._client = openai.OpenAI(
            base_url=self.url, api_key=api_key or 'EMPTY', max_retries=retries, timeout=timeout)
        self._generation = dict(generation or {})
        self._extras: dict[str, Any] = dict(_EXTRAS)
        self.model = model or self._only_model()

    def _only_model(self) -> str:
        try:
            models = [model.id for model in self._client.with_options(max_retries=2, timeout=30).models.list()]
        except openai.APIStatusError as e:
            remedy = _FOR_ALL_ROWS.get(e.status_code, 'Look into the log of the server.')
            raise ConnectionError(f'{self.url}/models answers {_said(e)}. {remedy}') from e
        except openai.APIConnectionError as e:
            raise ConnectionError(f'{self.url} cannot be reached ({_reason(e)}). Start the server, or correct '
                                  '--text-from.') from e
        if len(models) != 1:
            raise ValueError(f'{self.url} has the models {", ".join(models) or "(none)"}. Name one by --served-model.')
        return models[0]

    def ask(self, messages: list[dict[str, Any]], row: str) -> ServedText:
        """Asks one question, with retries.

        Args:
            messages: As OpenAI's API has them.
            row: The name of the row, for errors.

        Raises:
            RowError: The server refuses this request (kind 'text-server').
            ConnectionError: It would not answer any other either.
        """
        extras = self._extras
        try:
            completion = self._client.chat.completions.create(
                model=self.model, messages=messages, extra_body=extras, **self._generation)  # type: ignore[arg-type]
        except (openai.BadRequestError, openai.UnprocessableEntityError) as e:
            refused = min((name for name in extras if name in str(e)), key=str(e).index, default=None)
            if refused is not None:
                # OpenAI itself, `swift deploy` with a Citrus-V model, and others take no field that they do not know.
                # They name one, and may go on to those that they do know.
                self._extras = {name: value for name, value in self._extras.items() if name != refused}
                return self.ask(messages, row)
            raise RowError(row, f'{self.url} answers {_said(e)}.',
                           'Shorten the row, or look into the log of the server.', 'text-server') from e
        except openai.APIStatusError as e:
            remedy = _FOR_ALL_ROWS.get(e.status_code)
            if remedy is not None:
                raise ConnectionError(f'{row}: {self.url} answers {_said(e)}. {remedy}') from e
            raise RowError(row, f'{self.url} answers {_said(e)}, again and again.', 'Look into the log of the server.',
                           'text-server') from e
        except openai.APIConnectionError as e:
            raise ConnectionError(f'{row}: {self.url} cannot be reached any more ({_reason(e)}). {_GO_ON}') from e
        except (openai.OpenAIError, ValueError) as e:
            raise _no_completion(row, self.url, e) from e
        choices = getattr(completion, 'choices', None)
        if not choices:
            raise _no_completion(row, self.url, completion)
        choice = choices[0]
        return ServedText(
            text=choice.message.content or '',
            token_ids=_ids(choice, 'token_ids'),
            # vLLM and ms-swift have them beside the choices, SGLang in each.
            prompt_ids=_ids(completion, 'prompt_token_ids') or _ids(choice, 'prompt_token_ids'),
            finish_reason=choice.finish_reason)


def _no_completion(row: str, url: str, found: Any) -> RowError:
    return RowError(row, f'{url} answers with no chat completion: {str(found)[:200]!r}.',
                    'Name an OpenAI-compatible server by --text-from.', 'text-server')


def _ids(part: Any, name: str) -> list[int] | None:
    ids = getattr(part, name, None)
    whole = isinstance(ids, list) and all(isinstance(token, int) and token >= 0 for token in ids)
    return ids if whole else None


def _said(error: openai.APIStatusError) -> str:
    return f'{error.status_code}: {" ".join(str(error.message).split())[:500]}'.rstrip('.')


def _reason(error: openai.APIConnectionError) -> str:
    return str(error.__cause__ or error).rstrip('.') or type(error.__cause__).__name__


def data_url(reference: Any) -> str:
    """An image of a row as a data: URL, which no server has to look for.

    A file that every decoder reads alike is sent as it is; anything else as a PNG of the pixels that are seen here.

    Args:
        reference: What `FileRules.open` takes.

    Raises:
        One of `IMAGE_ERRORS`: it cannot be read, or must not be.
    """
    with open_image(reference) as image:
        kind, path = _SENT_AS_THEY_ARE.get(image.format or ''), getattr(image, 'filename', '')
        # Some decoders turn an image by its EXIF, and each has its own way with alpha, palettes and 16 bits.
        plain = (
            image.mode in ('RGB', 'L') and 'transparency' not in image.info
            and image.getexif().get(ExifTags.Base.Orientation, 1) == 1)
        if kind and plain and path and os.path.isfile(path):
            with open(path, 'rb') as file:
                content = file.read()
        else:
            kind, content = 'image/png', _png(to_rgb(image))
    return f'data:{kind};base64,{base64.b64encode(content).decode("ascii")}'


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    # Whatever the file said about itself stays behind.
    Image.frombytes(image.mode, image.size, image.tobytes()).save(file, 'PNG', compress_level=1)
    return file.getvalue()
