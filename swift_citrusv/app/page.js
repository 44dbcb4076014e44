// The parts of the page that run in the browser: ticked masks, opacity, actual size and downloads.
// Handlers are attached to the document, because Gradio replaces elements.
(() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const hide = (mask, hidden) => all(`.cv-stack img[data-mask="${mask}"]`)
    .forEach(image => image.classList.toggle('cv-off', hidden));
  const sync = () => {
    const ticks = all('.cv-tick');
    ticks.forEach(tick => hide(tick.dataset.mask, !tick.checked));
    const number = ticks.filter(tick => tick.checked).length;
    all('.cv-all').forEach(box => {
      box.checked = number === ticks.length;
      box.indeterminate = 0 < number && number < ticks.length;
    });
  };
  const opacity = () => document.documentElement.style.getPropertyValue('--cv-opacity') || '0.35';
  window.cvOpacity = value => document.documentElement.style.setProperty('--cv-opacity', value);

  const save = async link => {
    const problem = document.querySelector('.cv-downloads ~ .cv-problem');
    const ticked = all('.cv-tick').filter(tick => tick.checked).map(tick => tick.dataset.mask).join(',');
    problem.textContent = '';
    try {
      const answer = await fetch(`${link.getAttribute('href')}?ticked=${ticked}&opacity=${opacity()}`);
      if (!answer.ok) throw new Error(await answer.text());
      const name = decodeURIComponent(answer.headers.get('content-disposition').split("utf-8''")[1]);
      const saved = document.createElement('a');
      saved.href = URL.createObjectURL(await answer.blob());
      saved.download = name;
      saved.click();
      setTimeout(() => URL.revokeObjectURL(saved.href), 60000);
    } catch (error) {
      problem.textContent = error.message;
    }
  };

  document.addEventListener('change', event => {
    if (event.target.matches('.cv-all')) all('.cv-tick').forEach(tick => { tick.checked = event.target.checked; });
    if (event.target.matches('.cv-all, .cv-tick')) sync();
  });
  document.addEventListener('click', event => {
    const link = event.target.closest('a.cv-download');
    if (link) { event.preventDefault(); save(link); }
    const button = event.target.closest('button.cv-actual');
    if (button) {
      const large = button.closest('figure').querySelector('.cv-frame').classList.toggle('cv-large');
      button.setAttribute('aria-pressed', large);
    }
  });

  // Slices: arrow keys, page keys and the wheel on the image move the slice control, as its own keys do.
  const scroll = step => {
    const range = document.querySelector('#cv-index input[type=range]');
    if (!range || !range.offsetParent) return false;
    const value = Math.min(Math.max(Number(range.value) + step, Number(range.min)), Number(range.max));
    if (value !== Number(range.value)) {
      range.value = value;
      range.dispatchEvent(new Event('input', { bubbles: true }));
    }
    return true;
  };
  const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 };
  document.addEventListener('keydown', event => {
    const frame = event.target.closest && event.target.closest('.cv-frame[data-slices]');
    if (frame && event.key in STEPS && scroll(STEPS[event.key])) event.preventDefault();
    // Enter in the number of a slice applies it, as leaving the field does.
    if (event.key === 'Enter' && isNumber(event.target)) event.target.blur();
  });
  // A number beyond the slices waits until the field is left, and becomes the nearest one.
  const isNumber = target => target.matches && target.matches('#cv-index input[type=number], #cv-volume input[type=number]');
  const limits = field => {
    const range = field.closest('#cv-index, #cv-volume').querySelector('input[type=range]');
    return [Number(range.min), Number(range.max)];
  };
  document.addEventListener('input', event => {
    if (!isNumber(event.target)) return;
    const [low, high] = limits(event.target), value = Number(event.target.value);
    if (event.target.value === '' || !Number.isInteger(value) || value < low || value > high) {
      event.stopImmediatePropagation();
    }
  }, true);
  document.addEventListener('focusout', event => {
    if (!isNumber(event.target)) return;
    const field = event.target, [low, high] = limits(field);
    const value = Math.min(Math.max(Math.round(Number(field.value) || 0), low), high);
    if (field.value === '' || Number(field.value) === value) return;
    field.value = value;
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }, true);
  // The image is replaced with each slice: the new one takes the focus of the old.
  let focused = false;
  document.addEventListener('focusin', event => {
    focused = Boolean(event.target.closest && event.target.closest('.cv-frame[data-slices]'));
  });
  new MutationObserver(() => {
    const frame = document.querySelector('.cv-frame[data-slices]');
    if (focused && frame && document.activeElement === document.body) frame.focus({ preventScroll: true });
  }).observe(document.documentElement, { childList: true, subtree: true });
  document.addEventListener('wheel', event => {
    const frame = event.target.closest && event.target.closest('.cv-frame[data-slices]');
    if (frame && event.deltaY && !event.ctrlKey && scroll(event.deltaY < 0 ? 1 : -1)) event.preventDefault();
  }, { passive: false });

  const focus = (event, on) => {
    const row = event.target.closest && event.target.closest('.cv-legend tbody tr');
    if (!row) return;
    all('.cv-stack').forEach(stack => {
      const here = stack.querySelectorAll(`img[data-mask="${row.dataset.mask}"]`);
      stack.classList.toggle('cv-focus', on && here.length > 0);
      here.forEach(image => image.classList.toggle('cv-here', on));
    });
  };
  document.addEventListener('mouseover', event => focus(event, true));
  document.addEventListener('mouseout', event => focus(event, false));
})();
