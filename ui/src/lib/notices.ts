import type { Notice } from '$lib/backend';
import { errorWords } from '$lib/errors';
import { t } from '$lib/i18n/index.svelte';

/** What a person reads of something that happened at the start. */
export interface NoticeWords {
  title: string;
  text: string | null;
  /** A file that was kept, or that it is about. */
  path: string | null;
  /** What the system or a parser says, in English in every window. */
  detail: string | null;
}

export function noticeWords(notice: Notice): NoticeWords {
  const say = (own: Partial<NoticeWords>): NoticeWords => ({
    title: t(`notice.${notice.kind}`),
    text: null,
    path: null,
    detail: null,
    ...own
  });
  switch (notice.kind) {
    case 'settingsReset':
      return say({ text: t('noticeText.settingsReset', { fields: notice.fields.join(', ') }) });
    case 'settingsUnreadable':
      return say({ path: notice.path, detail: notice.detail });
    case 'settingsNotKept':
      return say({ text: t('noticeText.settingsNotKept'), path: notice.path, detail: notice.detail });
    case 'storeUnavailable': {
      const { title, next, detail } = errorWords(notice.error);
      return say({ text: `${title} ${next}`, path: notice.path, detail });
    }
    case 'storeRestored': {
      const { chats, messages } = notice;
      const text = chats === 0 ? t('noticeText.nothingRestored') : t('noticeText.storeRestored', { chats, messages });
      return say({ text, path: notice.path });
    }
    case 'interruptedAnswers':
      return say({ text: t('noticeText.interruptedAnswers', { count: notice.count }) });
  }
}
