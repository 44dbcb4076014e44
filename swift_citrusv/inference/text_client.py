"""A client of OpenAI-compatible servers (vLLM, SGLang, `swift deploy`, ...) for answers as text, without masks.

It also requests the token ids of each answer: the text may tokenize differently, and then its hidden states differ.
vLLM and SGLang (`return_token_ids`) and `swift deploy` (`return_details`) return them.
"""
import base64
import openai
import os
from io import BytesIO
from PIL import Image
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import RowError
from ..files.images import open_image, to_rgb

# In addition to OpenAI's fields; each server supports some of them. Special tokens such as `[SEG]` stay in the text.
_EXTRAS = {
    'return_token_ids': True,
    'return_details': True,
    'skip_special_tokens': False,
    'spaces_between_special_tokens': False
}
# These errors occur with every row, so there is no point in continuing.
_FOR_ALL_ROWS = {
    401: 'Name the environment variable with the key by --api-key-env.',
    403: 'Name the environment variable with the key by --api-key-env.',
    404: 'Name the model by --served-model, and look at the path of --text-from.',
    429: 'Lower --concurrency. Finished answers are kept; the same command resumes.',
}
_RESUME = 'When the server is up again, the same command resumes.'
# Formats that all servers decode to the same pixels as PIL.
_SENT_UNCHANGED = {'PNG': 'image/png', 'JPEG': 'image/jpeg'}


class ServedText(NamedTuple):
    """An answer of a server.

    text: The answer.
    token_ids: Its token ids, if the server returns them.
    prompt_ids: The token ids of the prompt, if the server returns them.
    finish_reason: 'stop', 'length', ...
    """
    text: str
    token_ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    finish_reason: str | None = None


class TextServer:
    """A model on a server. Thread-safe.

    Args:
        url: URL of the server: 'http://host:8000', optionally with the path before 'chat/completions'.
        model: The model's name on the server; by default its only model.
        api_key: The API key, if the server needs one.
        generation: Parameters of OpenAI's API: max_tokens, temperature, top_p, seed, stop.
        retries: Maximum number of retries after status 408, 409, 429, 5xx, or a connection error. The waits grow from
            0.5 to 8 seconds, unless the server sets them.
        timeout: Seconds for one answer.

    Raises:
        ConnectionError: The server cannot be reached, or refuses the key.
        ValueError: The URL is invalid, or the server has several models.
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
            raise ValueError(f'{url!r} is not the URL of a server. Write it as http://host:8000.')
        path = parts.path.rstrip('/').removesuffix('/chat/completions') or '/v1'
        self.url = f'{parts.scheme}://{parts.netloc}{path}'
        # The client needs some key. OPENAI_API_KEY is not used: it belongs to another server.
        self._client = openai.OpenAI(
            base_url=self.url, api_key=api_key or 'EMPTY', max_retries=retries, timeout=timeout)
        self._generation = dict(generation or {})
        self._extras: dict[str, Any] = dict(_EXTRAS)
        self.model = model or self._only_model()

    def _only_model(self) -> str:
        try:
            models = [model.id for model in self._client.with_options(max_retries=2, timeout=30).models.list()]
        except openai.APIStatusError as e:
            remedy = _FOR_ALL_ROWS.get(e.status_code, 'Check the log of the server.')
            raise ConnectionError(f'{self.url}/models answers {_said(e)}. {remedy}') from e
        except openai.APIConnectionError as e:
            raise ConnectionError(f'{self.url} cannot be reached ({_reason(e)}). Start the server, or correct '
                                  '--text-from.') from e
        if len(models) != 1:
            raise ValueError(f'{self.url} has the models {", ".join(models) or "(none)"}. Name one by --served-model.')
        return models[0]

    def ask(self, messages: list[dict[str, Any]], row: str) -> ServedText:
        """Requests one answer, with retries.

        Args:
            messages: Messages of OpenAI's API.
            row: The row's name, for errors.

        Raises:
            RowError: The server refuses this request (kind 'text-server').
            ConnectionError: The server would refuse every request.
        """
        extras = self._extras
        try:
            completion = self._client.chat.completions.create(
                model=self.model, messages=messages, extra_body=extras, **self._generation)  # type: ignore[arg-type]
        except (openai.BadRequestError, openai.UnprocessableEntityError) as e:
            refused = min((name for name in extras if name in str(e)), key=str(e).index, default=None)
            if refused is not None:
                # OpenAI, `swift deploy` with a Citrus-V model, and others refuse unknown fields and name one of them.
                # It is left out, and the request is sent again.
                self._extras = {name: value for name, value in self._extras.items() if name != refused}
                return self.ask(messages, row)
            raise RowError(row, f'{self.url} answers {_said(e)}.', 'Shorten the row, or check the log of the server.',
                           'text-server') from e
        except openai.APIStatusError as e:
            remedy = _FOR_ALL_ROWS.get(e.status_code)
            if remedy is not None:
                raise ConnectionError(f'{row}: {self.url} answers {_said(e)}. {remedy}') from e
            raise RowError(row, f'{self.url} answers {_said(e)}, also after retries.', 'Check the log of the server.',
                           'text-server') from e
        except openai.APIConnectionError as e:
            raise ConnectionError(f'{row}: {self.url} cannot be reached ({_reason(e)}). {_RESUME}') from e
        except (openai.OpenAIError, ValueError) as e:
            raise _no_completion(row, self.url, e) from e
        choices = getattr(completion, 'choices', None)
        if not choices:
            raise _no_completion(row, self.url, completion)
        choice = choices[0]
        return ServedText(
            text=choice.message.content or '',
            token_ids=_ids(choice, 'token_ids'),
            # vLLM and ms-swift return them next to the choices, SGLang in each choice.
            prompt_ids=_ids(completion, 'prompt_token_ids') or _ids(choice, 'prompt_token_ids'),
            finish_reason=choice.finish_reason)


def _no_completion(row: str, url: str, found: Any) -> RowError:
    return RowError(row, f'{url} did not return a chat completion: {str(found)[:200]!r}.',
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
    """Returns an image of a row as a data: URL.

    A file that all decoders read alike is sent unchanged; any other as a PNG of the pixels that PIL decodes here.

    Args:
        reference: A reference that `files.images.open_image` takes.

    Raises:
        One of `IMAGE_ERRORS`: The image cannot be read or is refused.
    """
    with open_image(reference) as image:
        kind, path = _SENT_UNCHANGED.get(image.format or ''), getattr(image, 'filename', '')
        # Decoders differ in alpha, palettes and 16 bits. An image that is turned by its EXIF orientation has no path.
        plain = image.mode in ('RGB', 'L') and 'transparency' not in image.info
        if kind and plain and path and os.path.isfile(path):
            with open(path, 'rb') as file:
                content = file.read()
        else:
            kind, content = 'image/png', _png(to_rgb(image))
    return f'data:{kind};base64,{base64.b64encode(content).decode("ascii")}'


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    # Without the metadata of the file.
    Image.frombytes(image.mode, image.size, image.tobytes()).save(file, 'PNG', compress_level=1)
    return file.getvalue()
