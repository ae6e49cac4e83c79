r"""What instructions to a model look like: cues with weights, in plain reading.

A weight is the chance, by judgement, that a text with this cue alone addresses a model; the sum
over independent cues is taken in `instructions`. Patterns are written for text in small letters,
and bounded, so that each takes time in proportion to the text.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cue:
    """One sign: what it says, how much it counts, how it is found."""

    name: str
    weight: float
    pattern: re.Pattern[str]


_GAP = r"(?:\W{1,4}\w{1,30}){0,5}?\W{0,4}"
_ORDERS = (
    r"(?:instruct\w*|prompts?|rules?|guidelines?|directi(?:ons|ves?)|commands?|orders|constraints|"
    r"restrictions|safety|programming|system message|guardrails|policies|told)"
)
_EARLIER = (
    r"(?:previous\w*|prior|preceding|earlier|above|all|any|every\w*|your|system|initial|original|"
    r"existing|former|foregoing|developer|other|these|those)"
)
_MODEL = (
    r"(?:a\.?i\.?|llms?|(?:large )?language models?|(?:virtual |a\.?i\.? |chat )?assistants?|"
    r"chat ?bots?|"
    r"chatgpt|gpt(?:-?\d\w*)?|claude|gemini|copilot|llama|a\.?i\.? (?:model|agent|system)s?)"
)


def _cue(name: str, weight: float, *patterns: str) -> Cue:
    return Cue(name, weight, re.compile("|".join(patterns)))


# Looked for second: it does not add to the override that contains it.
WEAKER = "asks for rules to be broken"
_IGNORE = (
    r"\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|bypass(?:ing)?|"
    r"discard|"
    r"neglect|abandon|(?:do not|don't|stop) (?:follow|obey|apply|adher)\w*)\b"
    r"[\s,:*_\"'-]{0,4}(?:of |the |about |following |to ){0,3}"
)
_BEFORE = (
    r"(?:previous\w*|prior|preceding|earlier|above|system|initial|original|existing|former|"
    r"foregoing|developer)"
)
_OVERRIDE = (
    rf"{_IGNORE}(?:{_EARLIER} ){{0,3}}{_BEFORE}\b{_GAP}{_ORDERS}\b",
    rf"{_IGNORE}{_EARLIER}\b{_GAP}(?:instruct\w*|prompts?|directives?|programming|guardrails)\b",
    r"\b(?:ignore|disregard|forget)(?:all)?(?:the)?(?:previous|prior|above|earlier)"
    r"(?:instructions|rules|prompts?|directions)",
    r"\b(?:ignore|disregard|forget|override)\b[\s\w]{0,20}\b(?:everything|all|"
    r"anything)\b[\s\w]{0,20}"
    r"\b(?:above|before|told|said|learned|written|so far|previously|prior)\b",
    r"\b(?:previous|prior|earlier|above|original|system|existing)\b[\s\w]{0,24}\b(?:instructions?|"
    r"prompts?|rules|guidelines|directives?|orders)\b[\s\w]{0,20}\b(?:are|is|were|have been|"
    r"has been)\b"
    r"[\s\w]{0,12}\b(?:void|revoked|superseded|cancel\w*|obsolete|no longer|null|deprecated|"
    r"overrid\w+|replaced|suspended|lifted|deleted)\b",
    # German, Dutch, French, Spanish, Italian, Portuguese
    r"\b(?:ignorier\w*|vergiss|vergessen sie|missachte\w*)\b[\s\w]{0,20}\b(?:vorherige|bisherige|"
    r"obige|"
    r"frühere|vorige|alle)\w*\b[\s\w]{0,20}(?:anweisung|instruktion|regel|befehl|vorgabe)",
    r"\b(?:negeer|vergeet)\b[\s\w]{0,20}\b(?:vorige|eerdere|bovenstaande|alle)\b[\s\w]{0,12}"
    r"(?:instructie|opdracht|regel)",
    r"\b(?:ignore[rz]?|oublie[rz]?|ne tene?z? pas compte)\b[\s\w]{0,24}\b(?:instructions?|"
    r"consignes?|"
    r"règles|directives)\b[\s\w]{0,6}(?:précédent|antérieur|ci-dessus|reçu|initial)",
    r"\b(?:ignor[aeo]\w*|olvid[ae]\w*|esquec\w+|desconsider\w+|dimentica\w*)\b[\s\w]{0,24}\b"
    r"(?:instruccion|instruç|istruzion|indicacion|ordenes|órdenes|regla|regra|regol|comand|"
    r"ordens)\w*"
    r"[\s\w]{0,10}\b(?:anterior|previa|precedent|acima|de arriba|dadas|ricevut)\w*",
    # Polish, Turkish, Russian, Ukrainian, Arabic, Hindi, Chinese, Japanese, Korean
    r"\b(?:zignoruj|ignoruj|zapomnij)\w*\b[\s\w]{0,20}\bpoprzedni\w*\b[\s\w]{0,12}(?:instrukc|"
    r"polece|zasad)",
    r"\bönceki\b[\s\w]{0,16}(?:talimat|komut|yönerge)\w*[\s\w]{0,12}(?:yok say|yoksay|görmezden|"
    r"unut)",
    r"(?:игнорир\w+|проигнорир\w+|забудь\w*|не учитыва\w+|ігнору\w+)[\s\w]{0,16}(?:предыдущ|прежн|"
    r"прошл|попередн|выше)\w*[\s\w]{0,16}(?:инструкц|указан|команд|правил|вказівк)",
    r"تجاهل[\s\w]{0,12}(?:التعليمات|الأوامر|التوجيهات)[\s\w]{0,6}(?:السابقة|أعلاه)",
    r"(?:पिछले|पूर्व|उपरोक्त)[^।.]{0,20}(?:निर्देश|आदेश)[^।.]{0,12}(?:अनदेखा|भूल|नज़रअंदाज)",
    r"(?:忽略|无视|無視|忘记|忘掉|忘記|不要理会)[^。\n]{0,8}(?:之前|以上|先前|前面|此前|上述|"
    r"所有)[^。\n]{0,10}"
    r"(?:指令|指示|提示|说明|規則|规则|命令|内容)",
    r"(?:以前|上記|これまで|前|今まで)の[^。\n]{0,8}(?:指示|命令|プロンプト|"
    r"ルール)[^。\n]{0,8}(?:無視|忘れ)",
    r"(?:이전|앞선|위의|기존)[^.\n]{0,8}(?:지시|명령|지침|프롬프트)[^.\n]{0,8}(?:무시|잊)",
)
CUES = (
    _cue("overrides earlier instructions", 0.65, *_OVERRIDE),
    _cue(
        WEAKER,
        0.4,
        rf"{_IGNORE}{_EARLIER}\b{_GAP}{_ORDERS}\b",
        r"\b(?:ignore|disregard|forget) (?:all |everything )?(?:of )?the (?:above|preceding|"
        r"foregoing)\b",
        r"\b(?:override|bypass|disable) (?:all |any |your |the )*(?:security|safety|content|"
        r"filters?)\b",
    ),
    _cue(
        "carries control tokens of a chat",
        0.6,
        r"<\|(?:im_start|im_end|system|user|assistant|eot_id|start_header_id|end_of_turn)\|>",
        r"<(?:start_of_turn|end_of_turn)>|\[/?inst\]|<</?sys>>",
    ),
    _cue(
        "carries role marks of a chat",
        0.4,
        r"</?system(?:[_-]?prompt)?>",
        r"(?:^|\n) ?#{1,4} ?(?:system|new instructions?|system prompt|instructions? for \w+) ?:?",
        r"[\"']role[\"'] ?: ?[\"'](?:system|developer|assistant)[\"']",
        r"(?:begin|start|end) (?:of )?(?:new |hidden |secret |system )+(?:instructions?|prompt|"
        r"message)",
    ),
    _cue(
        "speaks in the system's place",
        0.3,
        r"(?:^|[\n\"'>*\[(-]) ?(?:system|assistant|developer|admin|user|human)(?: ?(?:message|"
        r"prompt|note|"
        r"override|command|alert|update))?\]? ?:(?! ?//)",
        r"\b(?:new|updated|important|urgent|secret|hidden|additional|priority) (?:system )?"
        r"(?:instructions?|directives?|prompt|task|orders)\b(?: for \w+)? ?[:.-]",
        r"\b(?:system|admin|administrator|developer|security) (?:override|directive|command)\b",
        r"(?:^|\n) ?\[(?:system|admin|developer|assistant)\]|(?:^|\n|[(<\[#-] ?)(?:override|ai|"
        r"llm) ?:",
    ),
    _cue(
        "addresses a model",
        0.4,
        rf"\b(?:dear|attention|attn|hey|hello|hi|note to|notice to|message (?:to|for)|for|"
        rf"to (?:all|any|the)) "
        rf"(?:all |any |the |every |you )?{_MODEL}\b(?: (?:reading|processing|parsing|"
        rf"summari[sz]ing|"
        rf"analy[sz]ing|reviewing|crawling|that|who|which|agents?|systems?|readers?|assistants?))?"
        r" ?(?:[:,!.-]|reading|processing|that (?:reads?|process))",
        rf"\bif you(?:'re| are) (?:an? |the )?{_MODEL}\b",
        rf"\b(?:as|since|because) (?:you are )?(?:an? |the )?{_MODEL},? you (?:must|should|will|"
        rf"have to|are)\b",
        rf"\b(?:any|all|every) {_MODEL}s? (?:that |who |which )?(?:read|process|pars|summari|"
        rf"analy|access)\w*",
        rf"\b{_MODEL}s? (?:that |who |which )?(?:read|process|pars|summari|analy|access)\w* this\b",
        rf"\b{_MODEL}[,:]? (?:you )?(?:must|shall|please|will now)\b",
        rf"\binstructions? (?:for|to) (?:the |any |all |every )?{_MODEL}\b",
    ),
    _cue(
        "gives the model another person",
        0.4,
        r"\b(?:you are|you're) (?:now|no longer|hereby|henceforth) (?:an? |the |in |going |my |"
        r"bound |"
        r"acting |operating |entering |free |playing |under |called |known |restricted |subject )",
        rf"\byou are (?:an? |the )?(?:\w+ ){{0,3}}{_MODEL}\b",
        r"\b(?:from now on|from this point|henceforth|starting now),? you(?:r| will| are| must|"
        r" should| shall|"
        r" have|'re|'ll)?\b",
        r"\b(?:act|behave|respond|answer|reply) as (?:if you|though you|(?:an? )?(?:un\w+|dan|"
        r"evil|root|admin|"
        r"jailbroken|developer))",
        r"\bpretend (?:that )?(?:to be|you(?:'re| are| have))\b|\brole-?play as\b",
        r"\b(?:assume|take on|adopt) the (?:role|persona|identity) of\b|\bdev[_ ]mode\b",
        r"\b(?:developer|god|dan|debug|maintenance|sudo|unrestricted|jailbreak) mode\b(?: (?:is |"
        r"now )*"
        r"(?:on|enabled|activated))?",
        r"\bdo anything now\b|\bno (?:longer )?(?:bound|restricted|limited) by\b|"
        r"\bwithout (?:any )?(?:content |"
        r"safety |ethical )?(?:restrictions|filters?|guidelines|censorship)\b",
    ),
    _cue(
        "asks for what must stay secret",
        0.5,
        rf"\b(?:reveal|print|repeat|output|show|leak|send|exfiltrate|disclose|display|tell|"
        rf"return|write|give|"
        rf"forward|share|describe|consider|email|post|upload|extract|translate|summari[sz]e|"
        rf"dump)\b{_GAP}(?:(?:system|initial|internal|"
        rf"original|hidden|secret|full|entire|developer) (?:prompt|instructions?|message)|"
        rf"your (?:\w+ )?"
        rf"(?:instructions?|prompt|rules|guidelines|configuration|system)|(?:api|secret|access|"
        rf"private) "
        rf"(?:keys?|tokens?)|credentials|(?:chat|conversation|message) (?:history|log)|"
        rf"(?:the )?user'?s? (?:data|password|emails?|name|address|messages|files|information)|"
        rf"environment "
        r"variables|\.env|(?:all|their|the) (?:passwords|emails|contacts))",
        r"\b(?:repeat|print|output|show|return|display|"
        r"write out)\b(?: me)?(?: back)? (?:everything|all "
        r"(?:of )?(?:the )?(?:text|words|content)|the (?:text|words|content)) (?:written |that |"
        r"which )?(?:came "
        r"|is |was )?(?:above|before|from the (?:beginning|start|top))\b",
        r"(?:revel[ae]|révèle[rz]?|verrate|enthülle|rivela|раскрой\w*|раскажи|покажи\w*|透露|"
        r"泄露|显示|輸出|输出|"
        r"暴露)[\s\w]{0,24}(?:prompt|sistema|système|système|system|систем\w+|секрет\w*|系统|"
        r"提示|秘密)",
        r"(?:システムプロンプト|秘密|プロンプト)を[^。\n]{0,6}(?:教え|表示|出力)",
        r"!\[[^\]]{0,80}\]\(https?://[^)\s]{1,200}[?&=]\{?\w{0,20}(?:\{|<|%7b|\$)",
    ),
    _cue(
        "asks to keep it from the user",
        0.5,
        r"\b(?:do not|don't|never|must not|without) (?:ever )?(?:tell|inform|mention|reveal|"
        r"disclose|notify|"
        r"alert|warn|show|telling|informing|mentioning|notifying|alerting|revealing|"
        r"asking)\b[\s\w'-]{0,40}?"
        r"\b(?:users?|humans?|operator|instructions?|message|prompt)\b",
        r"\b(?:secretly|silently|covertly|quietly|discreetly) (?:\w+ )?(?:add|insert|include|"
        r"send|recommend|"
        r"execute|run|forward|call|promote|change|replace|append|collect|upload)\b",
    ),
    _cue(
        "dictates the answer",
        0.4,
        r"\b(?:respond|reply|answer|output|say|end|start|begin|conclude)\b(?: (?:to|every|all|"
        r"each|any|your|the|"
        r"user|users|this|query|queries|question|questions|request|requests|message|messages|"
        r"always|only|"
        r"exclusively|solely|answers?|responses?|repl(?:y|ies)))* (?:only |exactly |always |"
        r"solely )?(?:with|by "
        r"saying|in the (?:style|voice))\b",
        r"\b(?:respond|reply|answer|output) only\b",
        r"\b(?:répond(?:s|ez|re) (?:seulement|uniquement)|(?:responde|contesta|conteste) (?:solo|"
        r"sólo|únicamente)|"
        r"antworte(?:n sie)? (?:nur|ausschließlich)|rispondi (?:solo|soltanto)|"
        r"respond[ae] (?:apenas|somente)|"
        r"antwoord alleen|odpowiadaj tylko|отвечай\w* только)\b|(?:只|仅|僅)(?:回答|回复|回覆|"
        r"输出|輸出)|"
        r"(?:だけ|のみ)(?:を)?(?:答え|回答|出力)|만 (?:대답|답변|출력)",
        r"\b(?:when|whenever|if|once|before|after|every time)[\w ,']{0,30}? (?:asked|asks|"
        r"summari[sz]\w+|"
        r"answer\w*|respond\w*|reply\w*|quer(?:y|ied)|prompted|"
        r"generat\w+)\b[^.\n]{0,60}?\b(?:always|you must|"
        r"you should|say|recommend|mention|include|respond|reply|answer|state|tell|insert|add|"
        r"output|"
        r"append|instead|never|refuse|claim|describe|rate|print)\b",
        r"\b(?:in|to|of|with|at the (?:end|start|top|beginning) of) (?:your|every|each|all|"
        r"any) (?:next |final |"
        r"future )?(?:response|answer|summar(?:y|ies)|output|repl(?:y|ies)|responses|answers|"
        r"outputs|review)\b",
        r"\b(?:you must|you should|you will|please|always|be sure to|make sure to) (?:always |"
        r"only |now |"
        r"also |strongly )?(?:recommend|promote|praise|endorse|favou?r|respond|reply|output|rate|"
        r"rank|"
        r"refuse|comply|obey|follow (?:these|the following|my|this)|execute|prioriti[sz]e|"
        r"approve)\b",
        r"\byour (?:new|only|real|true|sole|next) (?:task|goal|job|objective|purpose|"
        r"instructions?|role|name)\b",
    ),
    _cue(
        "carries a tool call",
        0.45,
        r"\{[^{}]{0,200}[\"'](?:tool|function|tool_name|function_call|tool_calls?|action|"
        r"name)[\"'] ?: ?"
        r"[\"'{\[][^}]{0,200}[\"'](?:arguments|parameters|args|action_input|input|"
        r"tool_input)[\"'] ?:",
        r"</?(?:tool_call|tool_use|function_calls?|invoke|tool_code)\b",
    ),
    _cue(
        "orders a tool to be used",
        0.4,
        r"\b(?:call|invoke|use|run|execute|trigger) (?:the |your |a )?(?:[`\"']?\w{2,40}[`\"']? )?"
        r"(?:tool|plugin|function call)\b[^.\n]{0,80}\b(?:with|to|and|on|before|first)\b",
        r"\b(?:execute|run) (?:this|the following) (?:command|code|query|script)\b[: ]",
        r"\b(?:browse|navigate|go|visit|fetch|send (?:\w+ ){1,6}|post (?:\w+ ){1,6}|"
        r"forward (?:\w+ ){1,6}|"
        r"upload (?:\w+ ){1,6})\bto (?:https?://|[\w.]+@[\w.]+)",
        r"\b(?:curl|wget) [^\n]{0,80}\| ?(?:ba)?sh\b",
    ),
)
# A word that nearly every cue needs; what lacks all of them is passed over.
HINT = re.compile(
    r"ignor|disregard|forget|overrid|bypass|discard|neglect|abandon|follow|instruct|prompt|<\||"
    r"\[/?inst|<<|"
    r"</?s|role|system|assistant|admin|\bai\b|a\.i|llm|model|bot\b|gpt|claude|gemini|copilot|"
    r"llama|you are|"
    r"you're|from now|from this point|henceforth|pretend|mode|anything now|reveal|leak|secret|"
    r"silent|covert|"
    r"quiet|discreet|respon|repl[yi]|answer|output|summar|recommend|tool|function|action|invoke|"
    r"without|"
    r"[\"']name[\"']|curl|wget|https?:|your|vergiss|vergess|missacht|negeer|vergeet|oubli|olvid|"
    r"esque|"
    r"desconsider|dimentica|zapomnij|talimat|komut|yönerge|!\[|tell|turn>|tenez|repeat|print|"
    r"alleen|\\bnur\\b"
)
# Parts of a document that a reader does not see.
CONCEALED = re.compile(
    r"<!--.{0,4000}?(?:-->|$)|\[//\]: ?#.{0,800}|(?:display ?: ?none|visibility ?: ?hidden|"
    r"font-size ?: ?0|"
    r"opacity ?: ?0(?!\.)|color ?: ?(?:#fff(?:fff)?|white|transparent)|aria-hidden|"
    r"\bhidden\b)[^>]{0,200}>"
    r".{0,1000}?(?:</|$)|\b(?:alt|title|aria-label|content) ?= ?[\"'][^\"']{0,800}|"
    r"\]\([^)\n]{0,200} "
    r"[\"'][^\"')]{0,400}",
    re.DOTALL,
)
# Who writes about injections names them.
DISCUSSED = re.compile(
    r"prompt[- ]injection|injection attack|jailbreak|attackers?\b|adversar|red[- ]team|vulnerab|"
    r"malicious|"
    r"security (?:research|test|paper)|researchers|mitigat|exploit|for example|e\.g\.|such as|"
    r"example of|"
    r"phrases? like|chat template|special tokens?|tokeni[sz]er|docstring|guardrail|llm security"
)
QUOTED = re.compile(
    '["\u201c\u201e\u00ab\u2018`][^"\u201d\u201c\u00bb\u2019`]{4,600}["\u201d\u201c\u00bb\u2019`]'
    "|(?<!\\w)'(?:[^'\\n]|(?<=\\w)'(?=\\w)){8,400}'(?!\\w)|\n {4,}\\S|>>>|\n> "
)
