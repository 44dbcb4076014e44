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
